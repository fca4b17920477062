//! The way to another system, as the kernel knows it: which interface, which next hop, and that one's Ethernet address.
//!
//! Asked by netlink (rtnetlink(7)), as `ip route get` and `ip neigh` do, so that policy routing, several tables and whatever
//! else an administrator has set up is the kernel's to evaluate. Nothing is resolved here: the kernel asks by ARP for whom it
//! sends to, and links send by the kernel until the answer is there.

use std::net::Ipv4Addr;

use futures_util::TryStreamExt;
use longrun_hal::frame::Mac;
use rtnetlink::packet_route::AddressFamily;
use rtnetlink::packet_route::neighbour::{NeighbourAddress, NeighbourAttribute, NeighbourMessage, NeighbourState};
use rtnetlink::packet_route::route::{RouteAddress, RouteAttribute, RouteMessage};
use rtnetlink::{Handle, RouteMessageBuilder};

/// The way to an address.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Way {
    /// The number of the interface.
    pub interface: u32,
    /// Who packets are handed to: the address itself, or a router.
    pub hop: Ipv4Addr,
    /// The address that this system sends from.
    pub source: Option<Ipv4Addr>,
    /// The next hop's Ethernet address, if the kernel knows it.
    pub mac: Option<Mac>,
}

/// Finds the way to an address.
///
/// # Errors
/// In words, why there is none.
pub async fn way_to(to: Ipv4Addr) -> Result<Way, String> {
    let (connection, handle, _) =
        rtnetlink::new_connection().map_err(|error| format!("the kernel's routes cannot be asked for: {error}"))?;
    // Ends with the handle.
    tokio::spawn(connection);
    let no_route =
        |error: rtnetlink::Error| format!("there is no route to {to} ({error}); ip route get {to} shows the same");
    let message = RouteMessageBuilder::<Ipv4Addr>::new().destination_prefix(to, 32).build();
    let mut routes = Box::pin(handle.route().get(message).execute());
    let route = routes.try_next().await.map_err(no_route)?;
    let mut way = route
        .as_ref()
        .and_then(|route| way_of(to, route))
        .ok_or_else(|| format!("the route to {to} leads nowhere; ip route get {to} shows it"))?;
    way.mac = neighbour(&handle, way)
        .await
        .map_err(|error| format!("the kernel's neighbours cannot be asked for: {error}"))?;
    Ok(way)
}

fn way_of(to: Ipv4Addr, route: &RouteMessage) -> Option<Way> {
    let (mut interface, mut hop, mut source) = (None, to, None);
    for attribute in &route.attributes {
        match attribute {
            RouteAttribute::Oif(index) => interface = Some(*index),
            RouteAttribute::Gateway(RouteAddress::Inet(gateway)) => hop = *gateway,
            RouteAttribute::PrefSource(RouteAddress::Inet(address)) => source = Some(*address),
            _ => {}
        }
    }
    Some(Way { interface: interface?, hop, source, mac: None })
}

async fn neighbour(handle: &Handle, way: Way) -> Result<Option<Mac>, rtnetlink::Error> {
    let all = handle.neighbours().get().set_address_family(AddressFamily::Inet).execute();
    let mut all = Box::pin(all);
    while let Some(neighbour) = all.try_next().await? {
        if let Some(mac) = mac_of(&neighbour, way) {
            return Ok(Some(mac));
        }
    }
    Ok(None)
}

/// The Ethernet address in a neighbour's entry, if it is the next hop's and can be relied on.
fn mac_of(neighbour: &NeighbourMessage, way: Way) -> Option<Mac> {
    let known = matches!(
        neighbour.header.state,
        // A stale entry is right as far as anybody knows; the kernel asks again as it sends.
        NeighbourState::Reachable
            | NeighbourState::Stale
            | NeighbourState::Delay
            | NeighbourState::Probe
            | NeighbourState::Permanent
            | NeighbourState::Noarp
    );
    let is_hop = neighbour.header.ifindex == way.interface
        && neighbour.attributes.contains(&NeighbourAttribute::Destination(NeighbourAddress::Inet(way.hop)));
    if !known || !is_hop {
        return None;
    }
    neighbour.attributes.iter().find_map(|attribute| match attribute {
        NeighbourAttribute::LinkLayerAddress(bytes) => <[u8; 6]>::try_from(bytes.as_slice()).ok().map(Mac),
        _ => None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn way(hop: &str) -> Way {
        Way { interface: 7, hop: hop.parse().unwrap(), source: None, mac: None }
    }

    fn entry(state: NeighbourState) -> NeighbourMessage {
        let mut entry = NeighbourMessage::default();
        entry.header.ifindex = 7;
        entry.header.state = state;
        entry.attributes.push(NeighbourAttribute::Destination(NeighbourAddress::Inet([10, 0, 0, 9].into())));
        entry.attributes.push(NeighbourAttribute::LinkLayerAddress(vec![2, 0, 0, 0, 0, 9]));
        entry
    }

    #[test]
    fn only_the_next_hops_entry_counts_and_only_while_it_is_valid() {
        let mac = Some(Mac([2, 0, 0, 0, 0, 9]));
        for state in [NeighbourState::Reachable, NeighbourState::Stale, NeighbourState::Permanent] {
            assert_eq!(mac_of(&entry(state), way("10.0.0.9")), mac);
        }
        for state in [NeighbourState::Incomplete, NeighbourState::Failed, NeighbourState::None] {
            assert_eq!(mac_of(&entry(state), way("10.0.0.9")), None);
        }
        assert_eq!(mac_of(&entry(NeighbourState::Reachable), way("10.0.0.8")), None);
        assert_eq!(mac_of(&entry(NeighbourState::Reachable), Way { interface: 8, ..way("10.0.0.9") }), None);
    }

    #[test]
    fn a_router_is_the_next_hop_of_what_lies_behind_it() {
        let to = Ipv4Addr::new(192, 0, 2, 1);
        let mut route = RouteMessage::default();
        assert_eq!(way_of(to, &route), None);
        route.attributes.push(RouteAttribute::Oif(7));
        assert_eq!(way_of(to, &route), Some(way("192.0.2.1")));
        route.attributes.push(RouteAttribute::Gateway(RouteAddress::Inet([10, 0, 0, 9].into())));
        assert_eq!(way_of(to, &route), Some(way("10.0.0.9")));
    }

    #[tokio::test]
    async fn the_kernel_says_that_the_way_to_itself_is_its_loopback() {
        let lo = longrun_hal::net::Interface::look("lo").unwrap();
        let way = way_to(Ipv4Addr::LOCALHOST).await.unwrap();
        assert_eq!((way.interface, way.hop), (lo.index, Ipv4Addr::LOCALHOST));
    }
}
