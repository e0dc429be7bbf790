"""Published file formats as pydantic models and parsers: OCI runtime and image, references, CNI."""
