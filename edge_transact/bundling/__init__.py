"""Android projects with models in them, the weights that are installed on phones, and checks of finished apps."""
