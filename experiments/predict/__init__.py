"""What a trained network sees on pictures: their classes, masks or boxes."""
