//! The decision whether a content is right: see the rules at the head of [`super`].

use std::fmt;

use super::content::describe;
use super::{Effect, Floor, Oracle, ReadStart, Request};

/// What is wrong with a content: one sentence for a person.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Violation(pub String);

impl fmt::Display for Violation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

fn wrong<T>(text: impl Into<String>) -> Result<T, Violation> {
    Err(Violation(text.into()))
}

/// Set of the requests of a life (writes and discards), by place in the list.
type Set = u128;

fn bit(i: usize) -> Set {
    1 << i
}

fn members(set: Set) -> impl Iterator<Item = usize> {
    (0..Set::BITS as usize).filter(move |i| set & bit(*i) != 0)
}

/// Ranges that the same requests touch, and what they show.
#[derive(Clone, Debug)]
struct Group {
    cover: Set,
    /// Requests whose content all these ranges hold.
    shows: Set,
    /// Whether they hold what the device held before.
    old: bool,
    at: u64,
}

/// What a group shows: `None` is the old content.
type Choice = Option<usize>;

struct Facts {
    requests: Vec<Request>,
    /// Those acknowledged before request i was submitted.
    before: Vec<Set>,
    newest: u64,
}

impl Facts {
    fn of(oracle: &Oracle, mark: usize) -> Facts {
        let log = oracle.log.borrow();
        let requests: Vec<Request> = log
            .requests
            .iter()
            .filter(|r| r.submitted < mark)
            .map(|r| Request { acknowledged: r.acknowledged.filter(|a| *a < mark), ..r.clone() })
            .collect();
        let changes: Vec<Request> =
            requests.into_iter().filter(|r| r.effect != Effect::Flush).collect();
        assert!(changes.len() <= Set::BITS as usize, "a life has at most 128 requests");
        let before = changes
            .iter()
            .map(|b| {
                let earlier = changes
                    .iter()
                    .enumerate()
                    .filter(|(_, a)| a.acknowledged.is_some_and(|end| end < b.submitted));
                earlier.fold(0, |set, (i, _)| set | bit(i))
            })
            .collect();
        Facts { requests: changes, before, newest: log.next_number }
    }

    fn floor(&self, oracle: &Oracle, mark: usize, floor: Floor) -> Set {
        let log = oracle.log.borrow();
        let last_flush = log
            .requests
            .iter()
            .filter(|f| f.effect == Effect::Flush && f.acknowledged.is_some_and(|a| a < mark))
            .map(|f| f.submitted)
            .max();
        let mut set = 0;
        for (i, r) in self.requests.iter().enumerate() {
            let Some(end) = r.acknowledged else { continue };
            let promised = match floor {
                Floor::Acknowledged => true,
                Floor::Flushed => r.fua || last_flush.is_some_and(|f| end < f),
            };
            if promised {
                set |= bit(i);
            }
        }
        self.closed(set)
    }

    /// With everything that was acknowledged before one of them was submitted.
    fn closed(&self, set: Set) -> Set {
        members(set).fold(set, |all, i| all | self.before[i])
    }

    fn name(&self, choice: Choice) -> String {
        choice.map_or("the old content".to_owned(), |i| self.requests[i].name())
    }

    /// The device cut into groups of ranges, each with what it may show.
    fn groups(&self, base: &[u8], content: &[u8], from: u64) -> Result<Vec<Group>, Violation> {
        let end = from + content.len() as u64;
        let mut edges: Vec<u64> = vec![from, end];
        for r in &self.requests {
            let own = r.ranges().into_iter().flat_map(|(from, to)| [from, to]);
            edges.extend(own.filter(|e| from < *e && *e < end));
        }
        edges.sort_unstable();
        edges.dedup();
        let mut groups: Vec<Group> = Vec::new();
        for pair in edges.windows(2) {
            let (at, to) = (pair[0], pair[1]);
            let here = &content[(at - from) as usize..(to - from) as usize];
            let covering = self.requests.iter().enumerate().filter(|(_, r)| r.covers(at));
            let (mut cover, mut shows) = (0, 0);
            for (i, r) in covering {
                cover |= bit(i);
                if r.leaves(at, here) {
                    shows |= bit(i);
                }
            }
            let old = base[at as usize..to as usize] == *here;
            match groups.iter_mut().find(|g| g.cover == cover) {
                Some(g) => {
                    let both = Group { shows: g.shows & shows, old: g.old && old, ..*g };
                    if both.shows == 0 && !both.old && (shows != 0 || old) {
                        return wrong(format!(
                            "a request is there in part: bytes from {} show {}, bytes from {at} \
                             show {}",
                            g.at,
                            self.candidates(g),
                            self.candidates(&Group { cover, shows, old, at })
                        ));
                    }
                    *g = both;
                }
                None => groups.push(Group { cover, shows, old, at }),
            }
            if shows == 0 && !old {
                return self.explain_foreign(base, here, at, cover);
            }
        }
        Ok(groups)
    }

    fn candidates(&self, g: &Group) -> String {
        let mut names: Vec<String> = members(g.shows).map(|i| self.requests[i].name()).collect();
        if g.old {
            names.push("the old content".to_owned());
        }
        names.join(" or ")
    }

    fn explain_foreign(
        &self,
        base: &[u8],
        here: &[u8],
        at: u64,
        cover: Set,
    ) -> Result<Vec<Group>, Violation> {
        let wanted: Vec<String> = members(cover).map(|i| self.requests[i].name()).collect();
        let old =
            describe(&base[at as usize..][..here.len()], at, base.len() as u64, u64::MAX >> 24);
        wrong(format!(
            "bytes {at}..{} hold what no single request gives: {}; the old content is {old}; \
             requests there: {}",
            at + here.len() as u64,
            describe(here, at, base.len() as u64, self.newest),
            if wanted.is_empty() { "none".to_owned() } else { wanted.join(", ") }
        ))
    }

    /// Whether requests `set` can be ordered so that every group shows its choice.
    fn order_exists(&self, set: Set, shown: &[(Set, Choice)]) -> bool {
        let mut before: Vec<Set> = self.before.iter().map(|b| b & set).collect();
        for (cover, choice) in shown {
            match choice {
                None if set & cover != 0 => return false,
                None => {}
                Some(last) => before[*last] |= set & cover & !bit(*last),
            }
        }
        let mut left = set;
        while left != 0 {
            let free = members(left).find(|i| before[*i] & left == 0);
            let Some(i) = free else { return false };
            left &= !bit(i);
        }
        true
    }

    fn search(
        &self,
        floor: Set,
        groups: &[Group],
        shown: &mut Vec<(Set, Choice)>,
        tries: &mut u32,
    ) -> bool {
        let Some((g, rest)) = groups.split_first() else {
            let visible = shown.iter().filter_map(|(_, c)| *c).fold(floor, |s, i| s | bit(i));
            *tries += 1;
            return self.order_exists(self.closed(visible), shown);
        };
        let choices = members(g.shows).map(Some).chain(g.old.then_some(None));
        for choice in choices {
            shown.push((g.cover, choice));
            // A choice that already contradicts itself is not followed.
            let fine = groups.len() == 1 || {
                let visible = shown.iter().filter_map(|(_, c)| *c).fold(floor, |s, i| s | bit(i));
                self.order_exists(self.closed(visible), shown)
            };
            if fine && self.search(floor, rest, shown, tries) {
                return true;
            }
            shown.pop();
            if *tries > 100_000 {
                return true;
            }
        }
        false
    }

    fn explain(&self, floor: Set, groups: &[Group], mode: Floor) -> Violation {
        for g in groups {
            let possible: Vec<Choice> =
                members(g.shows).map(Some).chain(g.old.then_some(None)).collect();
            for r in members(floor & g.cover) {
                let older = |c: &Choice| match c {
                    None => true,
                    Some(w) => self.before[r] & bit(*w) != 0,
                };
                if possible.iter().all(older) {
                    let what = match mode {
                        Floor::Acknowledged => "acknowledged",
                        Floor::Flushed => "flushed",
                    };
                    return Violation(format!(
                        "an {what} request is lost: {}; byte {} shows {}",
                        self.requests[r].name(),
                        g.at,
                        self.candidates(g)
                    ));
                }
            }
        }
        for later in groups.iter().filter(|g| !g.old && g.shows.count_ones() == 1) {
            let b = members(later.shows).next().expect("one request");
            for g in groups {
                for a in members(self.before[b] & g.cover) {
                    let older = |w: usize| self.before[a] & bit(w) != 0;
                    if members(g.shows).all(older) {
                        return Violation(format!(
                            "{} is visible at byte {}, but {}, acknowledged before it was \
                             submitted, is lost: byte {} shows {}",
                            self.requests[b].name(),
                            later.at,
                            self.requests[a].name(),
                            g.at,
                            self.candidates(g)
                        ));
                    }
                }
            }
        }
        let shown: Vec<String> = groups
            .iter()
            .filter(|g| g.cover != 0)
            .map(|g| format!("byte {} shows {}", g.at, self.candidates(g)))
            .collect();
        Violation(format!(
            "no order of the requests gives this content whole: {}; of the floor: {}",
            shown.join("; "),
            members(floor).map(|i| self.requests[i].name()).collect::<Vec<_>>().join(", ")
        ))
    }
}

impl Oracle {
    /// Whether `content` (all of the device) is right after a crash at the moment when the
    /// history had `mark` entries.
    ///
    /// # Errors
    /// What is wrong.
    pub fn check_crash(&self, content: &[u8], mark: usize, floor: Floor) -> Result<(), Violation> {
        if content.len() != self.base.len() {
            return wrong(format!(
                "the device has {} bytes instead of {}",
                content.len(),
                self.base.len()
            ));
        }
        let facts = Facts::of(self, mark);
        let must = facts.floor(self, mark, floor);
        let mut groups = facts.groups(&self.base, content, 0)?;
        // What is certain first: it prunes the choices of the rest.
        groups.retain(|g| g.cover != 0);
        groups.sort_by_key(|g| g.shows.count_ones() + u32::from(g.old));
        if facts.search(must, &groups, &mut Vec::new(), &mut 0) {
            return Ok(());
        }
        Err(facts.explain(must, &groups, floor))
    }

    /// Whether a read that ends now was right: every range shows a request that was submitted,
    /// and none that was overwritten by one acknowledged before the read was submitted.
    ///
    /// # Errors
    /// What is wrong.
    pub fn check_read(&self, start: ReadStart, at: u64, bytes: &[u8]) -> Result<(), Violation> {
        let facts = Facts::of(self, self.length());
        let past = members(Set::MAX)
            .take_while(|i| *i < facts.requests.len())
            .filter(|i| facts.requests[*i].acknowledged.is_some_and(|a| a < start.0));
        let past = past.fold(0, |s, i| s | bit(i));
        // Atomic is a block, wherever the read begins.
        let mut rest = bytes;
        while !rest.is_empty() {
            let from = at + (bytes.len() - rest.len()) as u64;
            let (block, after) = rest.split_at(rest.len().min((4096 - from % 4096) as usize));
            rest = after;
            for g in facts.groups(&self.base, block, from)? {
                let stale = |c: Choice| {
                    members(past & g.cover).find(|r| match c {
                        None => true,
                        Some(w) => facts.before[*r] & bit(w) != 0,
                    })
                };
                let possible: Vec<Choice> =
                    members(g.shows).map(Some).chain(g.old.then_some(None)).collect();
                if possible.iter().all(|c| stale(*c).is_some()) {
                    let newer = stale(possible[0]).expect("it is stale");
                    return wrong(format!(
                        "a read of byte {} gave {} after {} was acknowledged",
                        g.at,
                        facts.name(possible[0]),
                        facts.requests[newer].name()
                    ));
                }
            }
        }
        Ok(())
    }
}
