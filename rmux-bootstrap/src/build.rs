//! Which build of a program this is.

use std::os::unix::fs::MetadataExt;
use std::sync::OnceLock;

// The executable of a process does not change; it may be replaced, which is another one.
static ID: OnceLock<String> = OnceLock::new();

/// The executable's time of last change and its size: two builds of one version differ, and the later one is the newer.
/// Empty where the system does not tell.
pub(crate) fn id() -> &'static str {
    ID.get_or_init(|| {
        let path = if cfg!(any(target_os = "linux", target_os = "android")) {
            Ok("/proc/self/exe".into())
        } else {
            std::env::current_exe()
        };
        path.and_then(std::fs::metadata)
            .map(|meta| format!("{}.{:09}-{}", meta.mtime(), meta.mtime_nsec(), meta.len()))
            .unwrap_or_default()
    })
}

/// In a daemon: what its starter, which executes the same file, has found. So both are one build, also where the file's time
/// is set in between.
pub(crate) fn inherit(id: &str) {
    // Elsewhere it was started by a name, which may have got another file in between.
    if cfg!(any(target_os = "linux", target_os = "android")) && !id.is_empty() {
        let _ = ID.set(id.to_owned());
    }
}
