"""What happens to pods, containers and images: the only place that orders effects and undoes them."""
