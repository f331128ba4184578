"""Resources from the Kubernetes API, live (calico.md §4.1, §4.6): ``client`` speaks to the server, ``pieces`` reads
long lists item by item, ``kinds`` says what is read and what of it is kept, ``feeds`` reads it for
``datastore.cluster``."""
