use super::*;

#[test]
fn the_same_seed_writes_the_same_and_another_one_something_else() {
    let all = |seed| {
        let mut history = History::new(seed);
        (0..20).map(|_| history.next_line()).collect::<Vec<_>>()
    };
    assert_eq!(all(1), all(1));
    assert!(all(1).iter().zip(all(2)).all(|(one, other)| *one != other));
}

#[test]
fn each_hash_covers_all_that_came_before() {
    let (mut one, mut other) = (History::new(1), History::new(1));
    other.hash[0] ^= 1;
    for _ in 0..5 {
        let ((link, _), (changed, _)) = (one.advance(), other.advance());
        assert_eq!(link.payload, changed.payload);
        assert_ne!(link.hash, changed.hash);
    }
}

#[test]
fn a_slots_filler_tells_its_transaction() {
    assert!(History::filler_is(17, &format!("{:0900}", 17)));
    assert!(!History::filler_is(17, &format!("{:0900}", 18)));
    assert!(!History::filler_is(17, "17"));
}
