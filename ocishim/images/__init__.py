"""Images: fetched from registries or layouts, unpacked a layer a directory, mounted by overlayfs."""
