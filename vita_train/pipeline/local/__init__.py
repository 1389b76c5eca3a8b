"""The compiled pipeline on this machine: run by kfp.local in a child process, shown in the
console."""
