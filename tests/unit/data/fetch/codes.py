"""Codes of the errors of a fetch, by what they stand for."""

#: 401 or 403 of a plain server.
HTTP_REFUSED = "VT-USE-145"
#: 404 of a plain server.
HTTP_MISSING = "VT-USE-146"
#: A redirect from https to http.
DOWNGRADE = "VT-USE-143"
#: A transfer that broke off too often.
INTERRUPTED = "VT-STORE-013"
#: Bytes that are never as stated.
WRONG_BYTES = "VT-DATA-051"
#: Another version than the first fetch.
CHANGED = "VT-DATA-050"
#: A file of someone else in the way.
FOREIGN_FILE = "VT-USE-158"
#: Too little room, before bytes move.
NO_ROOM = "VT-USE-138"
#: A disk that fills.
DISK_FULL = "VT-USE-139"
#: A folder that may not be written.
PERMISSION = "VT-USE-140"
#: Anything else that a disk refuses.
UNWRITABLE = "VT-USE-141"
#: A gated repository.
GATED = "VT-USE-149"
#: A token that the hub does not know.
HUB_REFUSED = "VT-USE-152"
#: A repository that is not there.
NO_REPO = "VT-USE-151"
#: A revision that is not there.
NO_REVISION = "VT-USE-150"
#: A file that a repository lacks.
NO_FILE = "VT-USE-156"
#: A hub that does not answer.
HUB_AWAY = "VT-STORE-011"
#: An SSH remote.
SSH = "VT-USE-161"
#: Pointers in a checkout.
LFS_POINTERS = "VT-DATA-045"
#: A pointer in place of a file.
LFS_POINTER = "VT-DATA-048"
#: A licence that was not accepted.
LICENCE = "VT-USE-153"
#: Files behind a form.
FORM = "VT-USE-137"
