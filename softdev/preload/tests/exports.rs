//! The library exports the interposed names and nothing else.

mod common;

use std::process::Command;

const NAMES: &[&str] = &[
    "__fxstat",
    "__fxstat64",
    "__fxstatat",
    "__fxstatat64",
    "__lxstat",
    "__lxstat64",
    "__open64_2",
    "__open_2",
    "__openat64_2",
    "__openat_2",
    "__readlink_chk",
    "__readlinkat_chk",
    "__realpath_chk",
    "__xstat",
    "__xstat64",
    "access",
    "canonicalize_file_name",
    "close",
    "close_range",
    "closefrom",
    "dup2",
    "dup3",
    "eaccess",
    "euidaccess",
    "faccessat",
    "fopen",
    "fopen64",
    "freopen",
    "freopen64",
    "fstat",
    "fstat64",
    "fstatat",
    "fstatat64",
    "getxattr",
    "glob",
    "glob64",
    "ioctl",
    "lgetxattr",
    "listxattr",
    "llistxattr",
    "lstat",
    "lstat64",
    "open",
    "open64",
    "openat",
    "openat64",
    "opendir",
    "readlink",
    "readlinkat",
    "realpath",
    "scandir",
    "scandir64",
    "socket",
    "stat",
    "stat64",
    "statx",
    "write",
];

#[test]
fn only_interposed_names() {
    let output = Command::new("nm")
        .args(["-D", "--defined-only"])
        .arg(common::library())
        .output()
        .unwrap();
    let listing = common::text("nm", &output);
    let mut found: Vec<&str> = listing
        .lines()
        .filter_map(|line| line.split_whitespace().nth(2))
        .collect();
    found.sort_unstable();
    assert_eq!(found, NAMES);
}
