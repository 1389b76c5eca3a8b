"""Files from elsewhere, whole and checked, in a folder with a lock file: the hub, ModelScope,
HTTP(S), S3, files, Debian packages.

`run.fetch` is the way in. A place of the catalogue (`catalogue.entry`) is resolved to files
(`resolve`), each file is transferred from its origin (`transfer`, `origin`), archives are unpacked
(`archives`), and `lock` keeps what was fetched.
"""
