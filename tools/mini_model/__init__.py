"""Parts of tools/train_mini_model.py: pictures, autoencoder, text and denoiser, export."""
