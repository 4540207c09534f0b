"""Left-ventricle segmentation trained through an exact dynamic program."""
