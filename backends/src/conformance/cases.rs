//! The cases, most basic first.

use bytes::Bytes;

use super::{Case, Need, SUBFOLDER, Scratch, Verdict, check, together};
use crate::{
    BackendError, BoxFuture, LIST_PAGE_OBJECTS_MAX, ObjectKey, PartBody, PartNumber, PartsId, Purpose, Segments,
    StoredPart,
};

macro_rules! cases {
    ($($need:ident $name:ident,)*) => {
        pub(crate) const ALL: &[Case] = &[$(Case { name: stringify!($name), need: Need::$need, run: |s| Box::pin($name(s)) }),*];
    };
}

cases! {
    Base an_object_reads_back_whole_and_by_range,
    Base what_is_absent_is_not_found,
    Base a_range_beyond_the_end_is_an_error_and_never_short,
    Base what_was_put_is_seen_at_once_by_get_head_and_list,
    Base a_put_can_be_repeated,
    Base what_was_deleted_is_gone_and_deleting_it_again_is_fine,
    Base a_listing_is_flat_and_in_byte_order,
    Base a_listing_goes_on_after_any_key,
    Always an_empty_object_is_an_object,
    Always a_large_body_of_many_segments_comes_back_the_same,
    Always the_longest_keys_and_all_their_characters_work,
    Always puts_at_once_into_one_new_folder_all_hold,
    Always readers_of_an_object_that_is_put_again_see_it_whole,
    Always one_call_deletes_a_thousand,
    Always a_listing_of_more_than_a_page_loses_nothing,
    Parts an_object_in_parts_shows_whole_when_it_is_complete,
    Parts parts_may_be_copied_from_stored_objects,
    Parts what_was_aborted_never_shows_and_is_not_listed_as_begun,
    Parts a_completion_can_be_repeated,
}

async fn an_object_reads_back_whole_and_by_range(s: &Scratch<'_>) -> Verdict {
    let parts = ["", "first ", "", "second ", "third", ""];
    s.put("object", Segments::new(parts.iter().map(|part| Bytes::from_static(part.as_bytes())).collect())).await?;
    s.expect("object", 0, b"first second third").await?;
    s.expect("object", 0, b"f").await?;
    s.expect("object", 4, b"t sec").await?;
    s.expect("object", 17, b"d").await?;
    s.expect("object", 18, b"").await?;
    s.expect("object", 3, b"").await
}

async fn what_is_absent_is_not_found(s: &Scratch<'_>) -> Verdict {
    for outcome in
        [s.get("absent", 0, 1).await.err(), s.get("absent", 0, 0).await.err(), s.bytes_of("absent").await.err()]
    {
        check(outcome == Some(BackendError::NotFound), || format!("expected not found, saw {outcome:?}"))?;
    }
    Ok(())
}

async fn a_range_beyond_the_end_is_an_error_and_never_short(s: &Scratch<'_>) -> Verdict {
    s.put("object", Bytes::from_static(b"0123456789")).await?;
    for (start, end) in [(0, 11), (9, 11), (10, 11), (20, 30), (20, 20)] {
        let seen = s.get("object", start, end).await;
        check(matches!(seen, Err(BackendError::Corrupt(_))), || format!("{start}..{end} of 10 bytes: {seen:?}"))?;
    }
    Ok(())
}

async fn what_was_put_is_seen_at_once_by_get_head_and_list(s: &Scratch<'_>) -> Verdict {
    for number in 0..5 {
        let name = format!("object-{number}");
        let missing = s.bytes_of(&name).await;
        check(missing == Err(BackendError::NotFound), || format!("before the put: {missing:?}"))?;
        s.put(&name, Bytes::from(name.clone())).await?;
        s.expect(&name, 0, name.as_bytes()).await?;
        let bytes = s.bytes_of(&name).await.map_err(|error| error.to_string())?;
        check(bytes == name.len() as u64, || format!("head says {bytes} bytes, {} were put", name.len()))?;
        let names = s.names().await?;
        check(names.contains(&name), || format!("{name} is not in the listing {names:?}"))?;
    }
    Ok(())
}

async fn a_put_can_be_repeated(s: &Scratch<'_>) -> Verdict {
    for _ in 0..3 {
        s.put("object", Bytes::from_static(b"the same")).await?;
        s.expect("object", 0, b"the same").await?;
    }
    let names = s.names().await?;
    check(names == ["object"], || format!("listed {names:?}"))
}

async fn what_was_deleted_is_gone_and_deleting_it_again_is_fine(s: &Scratch<'_>) -> Verdict {
    for name in ["a", "b", "c"] {
        s.put(name, Bytes::from_static(b"x")).await?;
    }
    // Not in key order: the answer keeps the order asked (checked in `delete`).
    s.delete(&["c", "never-there", "a"]).await?;
    for name in ["a", "c"] {
        let seen = (s.get(name, 0, 1).await, s.bytes_of(name).await);
        check(seen == (Err(BackendError::NotFound), Err(BackendError::NotFound)), || format!("{name}: {seen:?}"))?;
    }
    let names = s.names().await?;
    check(names == ["b"], || format!("listed {names:?}, expected b"))?;
    s.expect("b", 0, b"x").await?;
    s.delete(&["a", "c"]).await?;
    s.delete(&[]).await
}

async fn a_listing_is_flat_and_in_byte_order(s: &Scratch<'_>) -> Verdict {
    let names = s.names().await?;
    check(names.is_empty(), || format!("a folder that does not exist lists {names:?}"))?;
    for name in ["b", "sub-a", "a0", "sub0", "A", "a-1", "sub/inside", "a.1", "a_1", "0", "Z9"] {
        s.put(name, Bytes::from_static(b"x")).await?;
    }
    let names = s.names().await?;
    let expected = ["0", "A", "Z9", "a-1", "a.1", "a0", "a_1", "b", "sub-a", "sub0"];
    check(names == expected, || format!("listed {names:?}, expected {expected:?}"))?;
    let sub = Scratch { backend: s.backend, folder: format!("{}/{SUBFOLDER}", s.folder) };
    let inside = sub.names().await?;
    check(inside == ["inside"], || format!("the folder within lists {inside:?}"))
}

async fn a_listing_goes_on_after_any_key(s: &Scratch<'_>) -> Verdict {
    for name in ["b", "d", "f", "sub/e"] {
        s.put(name, Bytes::from_static(b"x")).await?;
    }
    for (after, expected) in
        [("a", &["b", "d", "f"][..]), ("b", &["d", "f"]), ("c", &["d", "f"]), ("e", &["f"]), ("f", &[]), ("z", &[])]
    {
        let after_key = s.key(after);
        let page = s.backend.list_folder(&s.folder, Some(&after_key), Purpose::Probe).await;
        let page = page.map_err(|error| format!("list after {after}: {error}"))?;
        let names: Vec<_> = page.objects.iter().map(|(key, _)| key.file_name()).collect();
        check(names == expected, || format!("after {after}: {names:?}, expected {expected:?}"))?;
    }
    Ok(())
}

async fn an_empty_object_is_an_object(s: &Scratch<'_>) -> Verdict {
    s.put("empty", Segments::default()).await?;
    let bytes = s.bytes_of("empty").await;
    check(bytes == Ok(0), || format!("head: {bytes:?}"))?;
    s.expect("empty", 0, b"").await?;
    let names = s.names().await?;
    check(names == ["empty"], || format!("listed {names:?}"))
}

async fn a_large_body_of_many_segments_comes_back_the_same(s: &Scratch<'_>) -> Verdict {
    // 3,000 segments: more than one vectored write takes (1,024).
    let body =
        Bytes::from((0..9_000_011_u32).map(|at| (at.wrapping_mul(2_654_435_761) >> 24) as u8).collect::<Vec<_>>());
    let segments: Segments =
        (0..3_000).map(|part| body.slice(body.len() * part / 3_000..body.len() * (part + 1) / 3_000)).collect();
    s.put("large", segments).await?;
    s.expect("large", 0, &body).await?;
    s.expect("large", 4_000_001, &body[4_000_001..5_000_003]).await?;
    s.expect("large", body.len() as u64 - 7, &body[body.len() - 7..]).await
}

async fn the_longest_keys_and_all_their_characters_work(s: &Scratch<'_>) -> Verdict {
    let all: String = ('A'..='Z').chain('a'..='z').chain('0'..='9').chain("_-.".chars()).collect();
    let longest = "n".repeat(255.min(crate::key::KEY_BYTES_MAX - s.folder.len() - 1));
    let mut names = [all, longest];
    names.sort();
    for name in &names {
        s.put(name, Bytes::from(name.clone())).await?;
        s.expect(name, 0, name.as_bytes()).await?;
    }
    let listed = s.names().await?;
    check(listed == names, || format!("listed {listed:?}"))
}

async fn puts_at_once_into_one_new_folder_all_hold(s: &Scratch<'_>) -> Verdict {
    let names: Vec<String> = (0..32).map(|number| format!("{SUBFOLDER}/{number:02}")).collect();
    let puts = names.iter().map(|name| Box::pin(s.put(name, Bytes::from(name.clone()))) as BoxFuture<'_, _>);
    together(puts.collect()).await.into_iter().collect::<Result<(), _>>()?;
    for name in &names {
        s.expect(name, 0, name.as_bytes()).await?;
    }
    Ok(())
}

async fn readers_of_an_object_that_is_put_again_see_it_whole(s: &Scratch<'_>) -> Verdict {
    let body = Bytes::from(vec![7; 300_000]);
    s.put("object", body.clone()).await?;
    let mut work: Vec<BoxFuture<'_, Verdict>> = Vec::new();
    for _ in 0..4 {
        work.push(Box::pin(async {
            for _ in 0..5 {
                s.put("object", body.clone()).await?;
            }
            Ok(())
        }));
        work.push(Box::pin(async {
            for _ in 0..15 {
                s.expect("object", 0, &body).await?;
            }
            Ok(())
        }));
    }
    together(work).await.into_iter().collect()
}

async fn one_call_deletes_a_thousand(s: &Scratch<'_>) -> Verdict {
    put_many(s, 1_000).await?;
    let keys: Vec<ObjectKey> = (0..1_000).map(|number| s.key(&number_name(number))).collect();
    s.delete_keys(keys).await?;
    let names = s.names().await?;
    check(names.is_empty(), || format!("{} are still listed", names.len()))
}

async fn a_listing_of_more_than_a_page_loses_nothing(s: &Scratch<'_>) -> Verdict {
    let count = LIST_PAGE_OBJECTS_MAX + 7;
    put_many(s, count).await?;
    let names = s.names().await?;
    let expected: Vec<String> = (0..count).map(number_name).collect();
    check(names == expected, || format!("{} of {count} listed", names.len()))
}

fn number_name(number: usize) -> String {
    format!("{number:06}")
}

async fn put_many(s: &Scratch<'_>, count: usize) -> Verdict {
    let names: Vec<String> = (0..count).map(number_name).collect();
    for batch in names.chunks(32) {
        let puts = batch.iter().map(|name| Box::pin(s.put(name, Bytes::from_static(b"x"))) as BoxFuture<'_, _>);
        together(puts.collect()).await.into_iter().collect::<Result<(), _>>()?;
    }
    Ok(())
}

/// Bytes of the parts of a test object: as few as the store takes, and fewer in the last.
fn part_bodies(s: &Scratch<'_>) -> [Bytes; 3] {
    let least = s.backend.capabilities().part_bytes_min.max(1_000) as usize;
    [(1, least), (2, least + 7), (3, 5)].map(|(byte, bytes)| vec![byte; bytes].into())
}

fn number(number: u32) -> PartNumber {
    PartNumber::new(number).expect("a small number")
}

async fn begin(s: &Scratch<'_>, name: &str) -> Result<PartsId, String> {
    s.backend.begin_parts(&s.key(name), Purpose::Probe).await.map_err(|error| format!("begin: {error}"))
}

async fn put_part(s: &Scratch<'_>, name: &str, id: &PartsId, at: u32, body: PartBody) -> Result<StoredPart, String> {
    let stored = s.backend.put_part(&s.key(name), id, number(at), body, Purpose::Probe).await;
    stored.map_err(|error| format!("part {at}: {error}"))
}

async fn complete(s: &Scratch<'_>, name: &str, id: &PartsId, parts: &[StoredPart]) -> Verdict {
    let completed = s.backend.complete_parts(&s.key(name), id, parts.to_vec(), Purpose::Probe).await;
    completed.map_err(|error| format!("complete: {error}"))
}

async fn an_object_in_parts_shows_whole_when_it_is_complete(s: &Scratch<'_>) -> Verdict {
    let bodies = part_bodies(s);
    let id = begin(s, "object").await?;
    let mut stored = Vec::new();
    // In any order, and one of them twice.
    for at in [3, 1, 2, 1] {
        let body = PartBody::Bytes(bodies[at as usize - 1].clone().into());
        stored.push(put_part(s, "object", &id, at, body).await?);
        let seen = s.bytes_of("object").await;
        check(seen == Err(BackendError::NotFound), || format!("before it is complete: {seen:?}"))?;
    }
    stored.remove(1);
    stored.sort_by_key(|part| part.number);
    complete(s, "object", &id, &stored).await?;
    s.expect("object", 0, &bodies.concat()).await?;
    let names = s.names().await?;
    check(names == ["object"], || format!("listed {names:?}"))
}

async fn parts_may_be_copied_from_stored_objects(s: &Scratch<'_>) -> Verdict {
    let bodies = part_bodies(s);
    s.put("first", bodies[0].clone()).await?;
    s.put("second", Bytes::from(bodies.concat())).await?;
    let id = begin(s, "joined").await?;
    let (first, middle) = (bodies[0].len() as u64, bodies[1].len() as u64);
    let copies = [("second", first..first + middle), ("first", 0..first), ("second", 3..4)];
    let mut stored = Vec::new();
    for (at, (source, range)) in copies.into_iter().enumerate() {
        let body = PartBody::Copy { source: s.key(source), range };
        stored.push(put_part(s, "joined", &id, at as u32 + 1, body).await?);
    }
    complete(s, "joined", &id, &stored).await?;
    s.expect("joined", 0, &[&bodies[1][..], &bodies[0], &[1]].concat()).await?;
    let bytes = s.bytes_of("second").await;
    check(bytes.is_ok(), || format!("a source after the copy: {bytes:?}"))
}

async fn what_was_aborted_never_shows_and_is_not_listed_as_begun(s: &Scratch<'_>) -> Verdict {
    let bodies = part_bodies(s);
    let id = begin(s, "object").await?;
    put_part(s, "object", &id, 1, PartBody::Bytes(bodies[0].clone().into())).await?;
    let lists = s.backend.capabilities().lists_begun;
    let begun = || async {
        if !lists {
            return Ok(Vec::new());
        }
        let begun = s.backend.list_begun(&s.folder, Purpose::Probe).await.map_err(|error| error.to_string())?;
        Ok::<_, String>(begun.into_iter().map(|begun| (begun.key, begun.id)).collect::<Vec<_>>())
    };
    let listed = begun().await?;
    // A begin that was repeated may have left another.
    let own = (s.key("object"), id.clone());
    check(listed.contains(&own) || !lists, || format!("begun: {listed:?}"))?;
    for _ in 0..2 {
        let aborted = s.backend.abort_parts(&s.key("object"), &id, Purpose::Probe).await;
        check(aborted.is_ok(), || format!("abort: {aborted:?}"))?;
    }
    let listed = begun().await?;
    check(!listed.contains(&own), || format!("begun after the abort: {listed:?}"))?;
    let seen = s.bytes_of("object").await;
    check(seen == Err(BackendError::NotFound), || format!("after the abort: {seen:?}"))
}

async fn a_completion_can_be_repeated(s: &Scratch<'_>) -> Verdict {
    let bodies = part_bodies(s);
    let id = begin(s, "object").await?;
    let stored = put_part(s, "object", &id, 1, PartBody::Bytes(bodies[2].clone().into())).await?;
    for _ in 0..3 {
        complete(s, "object", &id, std::slice::from_ref(&stored)).await?;
        s.expect("object", 0, &bodies[2]).await?;
    }
    Ok(())
}
