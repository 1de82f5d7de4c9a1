"""Kumakobo's engine: settings, training, files. Never imports the app or Gradio."""
