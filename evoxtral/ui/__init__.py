"""The page that visitors see. Only this package and app.py know Gradio."""
