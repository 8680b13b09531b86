"""Scores of predicted structures. May import data_prep; its commands start without torch and scipy."""
