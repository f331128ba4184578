"""BGP on the wire: ``update`` framing, the UPDATE splitter and NLRI; ``attributes`` path attributes and their cache;
``exa`` the one adapter to ExaBGP's codecs."""
