use std::time::Duration;

use super::*;

fn key(text: &str) -> ObjectKey {
    ObjectKey::new(text).unwrap()
}

fn body(bytes: &'static [u8]) -> Segments {
    Bytes::from_static(bytes).into()
}

fn tmp_files(root: &Path) -> Vec<String> {
    let mut names: Vec<_> = std::fs::read_dir(root.join(".tmp"))
        .unwrap()
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .filter(|name| !name.ends_with(".lock"))
        .collect();
    names.sort();
    names
}

#[tokio::test]
async fn opening_sweeps_the_temporary_files_of_the_dead_and_spares_those_of_the_living() {
    let folder = tempfile::tempdir().unwrap();
    let living = FsBackend::open(folder.path()).unwrap();
    let (_file, temporary) = living.store.tmp.create(0).unwrap();
    std::fs::write(folder.path().join(".tmp/0123.0"), b"left by a crash").unwrap();
    std::fs::write(folder.path().join(".tmp/0123.1"), b"left by a crash").unwrap();
    std::fs::write(folder.path().join(".tmp/0123.lock"), b"").unwrap();
    let second = FsBackend::open(folder.path()).unwrap();
    let left = tmp_files(folder.path());
    assert_eq!(left.len(), 1, "{left:?}");
    assert!(left[0].starts_with(&living.store.tmp.owner));
    drop(temporary);
    assert!(tmp_files(folder.path()).is_empty());
    let page = second.list_folder("", None, Purpose::Scrub).await.unwrap();
    assert!(page.objects.is_empty(), "temporary files are never shown");
}

#[tokio::test]
async fn a_folder_that_is_not_writable_is_denied_and_says_where() {
    // Root may write everywhere, so the folder is one that nobody may.
    let error = FsBackend::open(Path::new("/proc/seawall-store")).err().unwrap();
    let text = error.to_string();
    assert!(matches!(error, BackendError::Denied(_) | BackendError::Fatal(_)), "{text}");
    assert!(text.contains("/proc/seawall-store"), "{text}");
}

#[tokio::test]
async fn a_failed_put_leaves_no_temporary_file() {
    let folder = tempfile::tempdir().unwrap();
    let store = FsBackend::open(folder.path()).unwrap();
    store.put(&key("a"), body(b"file"), Purpose::Upload).await.unwrap();
    let error = store.put(&key("a/b"), body(b"under a file"), Purpose::Upload).await.unwrap_err();
    assert!(matches!(error, BackendError::Fatal(_)), "{error:?}");
    assert!(tmp_files(folder.path()).is_empty());
    let missing = store.get_range(&key("a/b"), 0..1, Purpose::TailRead).await.unwrap_err();
    assert_eq!(missing, BackendError::NotFound);
}

#[tokio::test]
async fn empty_segments_at_any_place_do_not_stop_a_put() {
    let folder = tempfile::tempdir().unwrap();
    let store = FsBackend::open(folder.path()).unwrap();
    let empty = Bytes::new;
    let segments = vec![empty(), Bytes::from_static(b"ab"), empty(), empty(), Bytes::from_static(b"c"), empty()];
    store.put(&key("x"), Segments::new(segments), Purpose::Upload).await.unwrap();
    assert_eq!(&store.get_range(&key("x"), 0..3, Purpose::TailRead).await.unwrap().into_bytes()[..], b"abc");
    store.put(&key("y"), Segments::default(), Purpose::Upload).await.unwrap();
    assert_eq!(store.head(&key("y"), Purpose::TailRead).await.unwrap().bytes, 0);
}

#[tokio::test]
async fn a_folder_that_someone_removed_is_made_again_at_the_next_try() {
    let folder = tempfile::tempdir().unwrap();
    let store = FsBackend::open(folder.path()).unwrap();
    store.put(&key("a/b/c"), body(b"1"), Purpose::Upload).await.unwrap();
    std::fs::remove_dir_all(folder.path().join("a")).unwrap();
    let first = store.put(&key("a/b/c"), body(b"1"), Purpose::Upload).await.unwrap_err();
    assert!(first.is_retriable(), "{first:?}");
    store.put(&key("a/b/c"), body(b"1"), Purpose::Upload).await.unwrap();
}

#[tokio::test]
async fn a_store_whose_folder_is_gone_does_not_look_empty() {
    let folder = tempfile::tempdir().unwrap();
    let root = folder.path().join("store");
    let store = FsBackend::open(&root).unwrap();
    assert!(store.list_folder("none", None, Purpose::Scrub).await.unwrap().objects.is_empty());
    std::fs::remove_dir_all(&root).unwrap();
    let error = store.list_folder("none", None, Purpose::Scrub).await.unwrap_err();
    assert!(matches!(error, BackendError::Fatal(_)), "{error:?}");
}

#[tokio::test]
async fn bodies_of_all_sizes_come_back_with_and_without_the_page_cache() {
    let folder = tempfile::tempdir().unwrap();
    let store = FsBackend::open(folder.path()).unwrap();
    let sizes = [0, 1, 4_095, 4_096, 4_097, (1 << 20) - 1, 1 << 20, (1 << 20) + 1, (3 << 20) + 12_345];
    for direct in [true, false] {
        store.store.direct.store(direct, Ordering::Relaxed);
        for size in sizes {
            let bytes: Vec<u8> = (0..size).map(|n| (n * 31 % 251) as u8).collect();
            let pieces = bytes.chunks(70_001).map(Bytes::copy_from_slice).collect();
            let key = key(&format!("{direct}/{size}"));
            store.put(&key, Segments::new(pieces), Purpose::Upload).await.unwrap();
            assert_eq!(store.head(&key, Purpose::TailRead).await.unwrap().bytes, size as u64);
            assert!(
                store.get_range(&key, 0..size as u64, Purpose::TailRead).await.unwrap().into_bytes() == bytes,
                "{key}"
            );
            for (start, end) in
                [(0, size / 2), (size / 3, size), (size / 2, size / 2), (size.min(4_095), size.min(9_000))]
            {
                let range = start as u64..end as u64;
                let part = store.get_range(&key, range, Purpose::TailRead).await.unwrap();
                assert!(part.into_bytes() == bytes[start..end], "{key} {start}..{end}");
            }
            let beyond = store.get_range(&key, 0..size as u64 + 1, Purpose::TailRead).await;
            assert!(matches!(beyond, Err(BackendError::Corrupt(_))), "{key}: {beyond:?}");
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn calls_that_hang_are_bounded_and_keep_their_place_until_they_end() {
    let folder = tempfile::tempdir().unwrap();
    let store = Arc::new(FsBackend::open(folder.path()).unwrap());
    // Whoever opens it waits for the other end: a file system that does not answer.
    let pipe = folder.path().join("hangs");
    assert!(std::process::Command::new("mkfifo").arg(&pipe).status().unwrap().success());
    let asked: Vec<_> = (0..2 * CALLS_MAX)
        .map(|_| {
            let store = Arc::clone(&store);
            tokio::spawn(async move { store.get_range(&key("hangs"), 0..1, Purpose::TailRead).await })
        })
        .collect();
    let all_hang = async {
        while store.calls.available_permits() > 0 {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    };
    tokio::time::timeout(Duration::from_secs(60), all_hang).await.unwrap();
    for task in &asked {
        task.abort();
    }
    for task in asked {
        assert!(task.await.unwrap_err().is_cancelled());
    }
    assert_eq!(store.calls.available_permits(), 0, "their threads still hang");
    let other_end = std::fs::OpenOptions::new().read(true).write(true).open(&pipe).unwrap();
    store.put(&key("fine"), body(b"1"), Purpose::Upload).await.unwrap();
    drop(other_end);
}

#[tokio::test]
async fn large_ranges_come_back_whole_wherever_they_begin_and_end() {
    let folder = tempfile::tempdir().unwrap();
    let store = FsBackend::open(folder.path()).unwrap();
    let all: Vec<u8> = (0..3_000_000u32).map(|at| (at.wrapping_mul(2_654_435_761) >> 13) as u8).collect();
    let has = all.len() as u64;
    store.put(&key("f/a"), Bytes::from(all.clone()).into(), Purpose::Upload).await.unwrap();
    for start in [0, 1, 4095, 4096, 4097, 700_001] {
        for end in
            [start + direct::READ_BYTES_MIN - 1, start + direct::READ_BYTES_MIN, 1 << 20, 2_097_153, has - 1, has]
        {
            let read = store.get_range(&key("f/a"), start..end.max(start), Purpose::CatchUpRead).await.unwrap();
            assert!(read.into_bytes() == all[start as usize..end.max(start) as usize], "{start}..{end}");
        }
    }
    for beyond in [0..has + 1, has - 1..has + (1 << 20), has + 4096..has + (1 << 20)] {
        let error = store.get_range(&key("f/a"), beyond, Purpose::CatchUpRead).await.unwrap_err();
        assert!(matches!(error, BackendError::Corrupt(_)), "{error:?}");
    }
    let direct = store.store.direct.load(Ordering::Relaxed);
    let folder = store.get_range(&key("f"), 0..1 << 20, Purpose::CatchUpRead).await.unwrap_err();
    assert_eq!(folder, BackendError::NotFound);
    assert_eq!(store.store.direct.load(Ordering::Relaxed), direct, "a folder is no reason to give direct I/O up");
}

/// Only root can make a folder that is somebody else's.
#[test]
fn what_root_makes_in_a_folder_of_somebody_else_is_that_ones() {
    use std::os::unix::fs::{MetadataExt, chown};
    let folder = tempfile::tempdir().unwrap();
    let owner = |path: &Path| std::fs::metadata(path).unwrap().uid();
    let other = if owner(folder.path()) == 0 { 1234 } else { owner(folder.path()) };
    chown(folder.path(), Some(other), None).unwrap();
    let root = folder.path().join("a/objects");
    FsBackend::open(&root).unwrap();
    for made in [folder.path().join("a"), root.clone(), root.join(".tmp")] {
        assert_eq!(owner(&made), other, "{}", made.display());
    }
}
