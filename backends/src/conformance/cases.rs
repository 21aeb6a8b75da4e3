//! The cases, most basic first.

use bytes::Bytes;

use super::{Case, SUBFOLDER, Scratch, Verdict, check, together};
use crate::{BackendError, BoxFuture, LIST_PAGE_OBJECTS_MAX, ObjectKey, Purpose, Segments};

macro_rules! cases {
    ($($base:literal $name:ident,)*) => {
        pub(crate) const ALL: &[Case] = &[$(Case { name: stringify!($name), base: $base, run: |s| Box::pin($name(s)) }),*];
    };
}

cases! {
    true an_object_reads_back_whole_and_by_range,
    true what_is_absent_is_not_found,
    true a_range_beyond_the_end_is_an_error_and_never_short,
    true what_was_put_is_seen_at_once_by_get_head_and_list,
    true a_put_can_be_repeated,
    true what_was_deleted_is_gone_and_deleting_it_again_is_fine,
    true a_listing_is_flat_and_in_byte_order,
    true a_listing_goes_on_after_any_key,
    false an_empty_object_is_an_object,
    false a_large_body_of_many_segments_comes_back_the_same,
    false the_longest_keys_and_all_their_characters_work,
    false puts_at_once_into_one_new_folder_all_hold,
    false readers_of_an_object_that_is_put_again_see_it_whole,
    false one_call_deletes_a_thousand,
    false a_listing_of_more_than_a_page_loses_nothing,
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
