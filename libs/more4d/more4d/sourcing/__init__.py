"""Files of other people, brought here: which addresses may be reached, how often they are asked, what is kept."""
