"""What makes it a book: claims and their verdicts, figures, sliders, exercises. The science does not import it."""
