"""Colours that the figures of the diagnostics share: Okabe and Ito's, safe for colour-blind readers."""

BLUE, ORANGE, GREEN, PURPLE, SKY, YELLOW = "#0072b2", "#d55e00", "#009e73", "#cc79a7", "#56b4e9", "#f0e442"
GREY = "0.55"
