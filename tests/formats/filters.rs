//! What the filters let through, and what that costs.

use atkafka_fixtures::car;
use atkafka_fixtures::network::builder::{
    A_TIME, Commit, Op, account_frame, commit_block, identity_frame, record, sync_frame,
};
use ipld_core::ipld;
use sonic_rs::JsonValueTrait;

use crate::support::*;
use crate::{DID, OTHER_DID, REV, commit, create, run_lines, text};

#[test]
fn filters_pass_what_they_say_and_count_the_rest() {
    let file = folder("filters").join("dids");
    std::fs::write(&file, format!("# watched\n\n  {OTHER_DID}  \r\ndid:plc:nobody\n")).expect("a file");
    let at_file = format!("@{}", file.display());
    let collections = ["app.bsky.feed.post", "app.bsky.feed.like", "app.bsky.feed.postgate", "fm.teal.alpha.play"];
    let three = |did: &str, first: u64| {
        let ops = collections.map(|c| create(&format!("{c}/1")));
        vec![
            Commit::new(did, REV).ops(ops).frame(first),
            identity_frame(first + 1, did, A_TIME, None),
            account_frame(first + 2, did, A_TIME, true, None),
            sync_frame(first + 3, did, REV, A_TIME, &commit_block(did, REV, &car::cid_of(b""), None)),
        ]
    };
    let list = [three(DID, 1), three(OTHER_DID, 5), vec![identity_frame(9, "did:plc:end", A_TIME, None)]].concat();
    let [post, like, gate, play] = [0, 1, 2, 3];
    // flags; which collections pass; which of the accounts DID, OTHER_DID, did:plc:end pass
    type Case<'a> = (Vec<&'a str>, Vec<usize>, [bool; 3]);
    let all = [true; 3];
    let cases: Vec<Case<'_>> = vec![
        (vec![], vec![post, like, gate, play], all),
        (vec!["--watched-collections", "app.bsky.feed.post"], vec![post], all),
        (vec!["--watched-collections", "app.bsky.*"], vec![post, like, gate], all),
        (vec!["--watched-collections", "*"], vec![post, like, gate, play], all),
        (vec!["--watched-collections", "fm.teal.*,app.bsky.feed.like"], vec![like, play], all),
        (vec!["--ignored-collections", "app.bsky.*"], vec![play], all),
        (vec!["--ignored-collections=app.bsky.feed.post", "--ignored-collections=fm.*"], vec![like, gate], all),
        (vec!["--watched-dids", DID], vec![post, like, gate, play], [true, false, false]),
        (vec!["--ignored-dids", DID], vec![post, like, gate, play], [false, true, true]),
        (vec!["--watched-dids", &at_file], vec![post, like, gate, play], [false, true, false]),
        (
            vec!["--watched-dids", &at_file, "--watched-collections", "app.bsky.feed.post"],
            vec![post],
            [false, true, false],
        ),
        (vec!["--ignored-dids", &at_file, "--ignored-collections", "app.bsky.feed.*"], vec![play], [true, false, true]),
    ];
    for (args, passing, dids) in cases {
        let run = run_lines(list.clone(), &args);
        let mut want = Vec::new();
        for (did, passes, end) in [(DID, dids[0], false), (OTHER_DID, dids[1], false), ("did:plc:end", dids[2], true)] {
            if !passes {
                continue;
            }
            if !end {
                want.extend(passing.iter().map(|c| format!("{did} {}", collections[*c])));
            }
            want.push(format!("{did} identity"));
            if !end {
                want.extend([format!("{did} account"), format!("{did} sync")]);
            }
        }
        let got: Vec<String> = run
            .events()
            .iter()
            .map(|e| {
                let kind = ["identity", "account", "sync"].iter().find(|k| e.get(**k).is_some());
                let what = kind.map_or_else(|| text(e, &["operation", "collection"]), |k| k.to_string());
                format!("{} {what}", text(e, &["did"]))
            })
            .collect();
        assert_eq!(got, want, "{args:?}");
        assert_eq!(run.metrics["atkafka_filtered_events"], 15.0 - want.len() as f64, "{args:?}");
    }
}

#[test]
fn filtered_ops_are_not_decoded() {
    let float = record(&ipld!({ "$type": "x.y.z", "n": 0.5 }));
    let list = vec![
        commit()
            .ops([Op::create("x.y.z/1", &float), create("a.b.c/1").without_block(), create("app.bsky.feed.post/1")])
            .frame(1),
        commit().op(create("a.b.c/1")).car(b"junk").frame(2),
        identity_frame(3, DID, A_TIME, None),
    ];
    let run = run_lines(list, &["--watched-collections", "app.bsky.*"]);
    assert_eq!(run.lines.len(), 2);
    let dead: f64 = run.metrics.iter().filter(|(k, _)| k.starts_with("atkafka_dead_letters")).map(|(_, v)| v).sum();
    assert_eq!(dead, 0.0, "what nobody asked for is no dead letter: {:?}", run.log);
    assert_eq!(run.metrics["atkafka_filtered_events"], 3.0);
}
