"""The protocol of an evaluation: which clips, what is made for them and measured, and what is left in the folder."""
