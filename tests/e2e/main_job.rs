//! The main job: what real senders write arrives in Blueflood, whatever the connection goes through.

use crate::world::*;

#[test]
fn lines_and_pickles_on_one_port_arrive_in_blueflood() {
    let world = World::new();
    let daemon = world.daemon(&[]);
    daemon.send_lines("line", 3);
    daemon.send(frame(&[("pickle.a", 1.5), ("pickle.b", 7.0)]));
    world.expect_points(5);
    daemon.expect_delivered(5);
    assert_eq!(world.stored()["pickle.a"], 1.5);
    let ended = daemon.stop();
    assert_eq!(ended.code, Some(0), "{ended:#?}");
    assert_eq!(ended.last_line()["delivered"], 5);
}
