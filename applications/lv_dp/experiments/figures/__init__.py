"""Drawing: from entries and pictures to matplotlib figures; nothing is computed here."""
