use super::*;

#[test]
fn the_first_data_byte_is_found_wherever_it_is() {
    for len in [0, 1, 63, 64, 65, 200] {
        assert_eq!(first_data_byte(&vec![0; len]), None);
        for at in 0..len {
            let mut data = vec![0; len];
            data[at] = 1;
            data[len - 1] = 1;
            assert_eq!(first_data_byte(&data), Some(at));
        }
    }
}
