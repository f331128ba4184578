"""The door to the intent: where resources are kept, to whole ``Snapshot`` values. ``files`` follows a directory;
``objects`` keeps the last good version of each object; ``calico`` reads their contents."""
