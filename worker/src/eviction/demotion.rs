//! Demotion: what becomes of a block that must make room in its tier.

/// A tier below the block's own, as it is now.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Below {
    /// The tier's number.
    pub tier: usize,
    /// Bytes that can be reserved there at once.
    pub free: u64,
    /// Whether its policy would keep the block.
    pub admits: bool,
}

/// What becomes of a victim.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fate {
    /// It moves to the tier with this number.
    Demote(usize),
    /// It goes: the under store has it.
    Drop,
    /// It stays, for it is nowhere else and no lower tier has room.
    Keep,
}

/// The fate of a block of `size` bytes; `below` are the lower tiers, the next one first.
///
/// A tier that would have to make room itself is passed over, so that one eviction does not start a chain of them. What
/// is not persisted goes wherever there is room, whatever the policies think, and is never dropped.
#[must_use]
pub fn fate(size: u64, persisted: bool, below: &[Below]) -> Fate {
    let takes = |tier: &&Below| tier.free >= size && (tier.admits || !persisted);
    match below.iter().find(takes) {
        Some(tier) => Fate::Demote(tier.tier),
        None if persisted => Fate::Drop,
        None => Fate::Keep,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn below(tier: usize, free: u64, admits: bool) -> Below {
        Below { tier, free, admits }
    }

    #[test]
    fn the_next_tier_that_has_room_and_wants_it() {
        let tiers = [below(1, 9, true), below(2, 10, false), below(3, 10, true)];
        assert_eq!(fate(10, true, &tiers), Fate::Demote(3));
        assert_eq!(fate(9, true, &tiers), Fate::Demote(1));
        assert_eq!(fate(11, true, &tiers), Fate::Drop);
    }

    #[test]
    fn what_is_nowhere_else_is_never_dropped() {
        assert_eq!(fate(10, false, &[]), Fate::Keep);
        assert_eq!(fate(10, false, &[below(1, 9, true)]), Fate::Keep);
        assert_eq!(fate(10, false, &[below(1, 10, false)]), Fate::Demote(1));
        assert_eq!(fate(10, true, &[]), Fate::Drop);
    }
}
