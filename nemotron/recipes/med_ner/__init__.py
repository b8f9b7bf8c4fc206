"""A recipe for medical NER: annotated texts and a base model in, a versioned model artifact out."""
