"""Keeping the kernel equal to what is wanted: ``delta`` what is wanted, what is installed and what differs (pure);
``programmer`` one task a family that writes it."""
