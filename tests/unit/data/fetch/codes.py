"""Codes of the errors of a fetch, by what they stand for."""

#: 401 or 403 of a plain server.
HTTP_REFUSED = "VT-USE-189"
#: 404 of a plain server.
HTTP_MISSING = "VT-USE-190"
#: A redirect from https to http.
DOWNGRADE = "VT-USE-187"
#: A transfer that broke off too often.
INTERRUPTED = "VT-STORE-013"
#: Bytes that are never as stated.
WRONG_BYTES = "VT-DATA-060"
#: Another version than the first fetch.
CHANGED = "VT-DATA-059"
#: A file of someone else in the way.
FOREIGN_FILE = "VT-USE-202"
#: Too little room, before bytes move.
NO_ROOM = "VT-USE-182"
#: A disk that fills.
DISK_FULL = "VT-USE-183"
#: A folder that may not be written.
PERMISSION = "VT-USE-184"
#: Anything else that a disk refuses.
UNWRITABLE = "VT-USE-185"
#: A gated repository.
GATED = "VT-USE-193"
#: A token that the hub does not know.
HUB_REFUSED = "VT-USE-196"
#: A repository that is not there.
NO_REPO = "VT-USE-195"
#: A revision that is not there.
NO_REVISION = "VT-USE-194"
#: A file that a repository lacks.
NO_FILE = "VT-USE-200"
#: A hub that does not answer.
HUB_AWAY = "VT-STORE-011"
#: An SSH remote.
SSH = "VT-USE-205"
#: Pointers in a checkout.
LFS_POINTERS = "VT-DATA-055"
#: A pointer in place of a file.
LFS_POINTER = "VT-DATA-058"
#: A licence that was not accepted.
LICENCE = "VT-USE-197"
#: Files behind a form.
FORM = "VT-USE-181"
