"""Resources in etcd v3, as Calico keeps them there (calico.md §4.7): ``client`` speaks to the servers, ``layout`` knows
the keys, ``feeds`` reads them for ``datastore.cluster``."""
