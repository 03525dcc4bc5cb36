//! A sorted map in pages that are shared between clones and copied, one at a time, on the first change. Cloning costs one
//! reference count a page. For side tables: what few files have.

use std::{ops::Bound, sync::Arc};

/// The most entries of one page.
const PAGE: usize = 64;

/// A sorted map that is cheap to clone.
#[derive(Clone, Debug)]
pub(crate) struct PagedMap<K, V> {
    /// In order; none is empty.
    pages: Vec<Arc<Vec<(K, V)>>>,
    length: usize,
}

impl<K, V> Default for PagedMap<K, V> {
    fn default() -> Self {
        Self { pages: Vec::new(), length: 0 }
    }
}

impl<K: Ord + Clone, V: Clone> PagedMap<K, V> {
    pub(crate) fn len(&self) -> usize {
        self.length
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.length == 0
    }

    /// The page that holds the key, or would.
    fn page(&self, key: &K) -> usize {
        self.pages.partition_point(|page| page[0].0 <= *key).saturating_sub(1)
    }

    fn find(&self, key: &K) -> Option<(usize, usize)> {
        let page = self.page(key);
        let at = self.pages.get(page)?.binary_search_by(|(k, _)| k.cmp(key)).ok()?;
        Some((page, at))
    }

    pub(crate) fn get(&self, key: &K) -> Option<&V> {
        self.find(key).map(|(page, at)| &self.pages[page][at].1)
    }

    pub(crate) fn contains(&self, key: &K) -> bool {
        self.find(key).is_some()
    }

    pub(crate) fn get_mut(&mut self, key: &K) -> Option<&mut V> {
        let (page, at) = self.find(key)?;
        Some(&mut Arc::make_mut(&mut self.pages[page])[at].1)
    }

    /// Puts a value, and gives back the one that it replaces.
    pub(crate) fn insert(&mut self, key: K, value: V) -> Option<V> {
        if self.pages.is_empty() {
            self.pages.push(Arc::new(vec![(key, value)]));
            self.length = 1;
            return None;
        }
        let page = self.page(&key);
        let entries = Arc::make_mut(&mut self.pages[page]);
        match entries.binary_search_by(|(k, _)| k.cmp(&key)) {
            Ok(at) => Some(std::mem::replace(&mut entries[at].1, value)),
            Err(at) => {
                entries.insert(at, (key, value));
                self.length += 1;
                self.split(page, at);
                None
            }
        }
    }

    /// Cuts a page that is too long: in the middle, or, after an append, so that the first part stays full.
    fn split(&mut self, page: usize, inserted: usize) {
        let entries = Arc::make_mut(&mut self.pages[page]);
        if entries.len() > PAGE {
            let cut = if inserted + 1 == entries.len() { PAGE } else { PAGE / 2 };
            let rest = entries.split_off(cut);
            self.pages.insert(page + 1, Arc::new(rest));
        }
    }

    pub(crate) fn remove(&mut self, key: &K) -> Option<V> {
        let (page, at) = self.find(key)?;
        let entries = Arc::make_mut(&mut self.pages[page]);
        let (_, value) = entries.remove(at);
        self.length -= 1;
        if entries.is_empty() {
            self.pages.remove(page);
        }
        Some(value)
    }

    pub(crate) fn iter(&self) -> impl Iterator<Item = (&K, &V)> {
        self.pages.iter().flat_map(|page| page.iter().map(|(k, v)| (k, v)))
    }

    pub(crate) fn values(&self) -> impl Iterator<Item = &V> {
        self.iter().map(|(_, value)| value)
    }

    /// Entries from a key on, in order.
    pub(crate) fn range_from(&self, from: Bound<&K>) -> impl Iterator<Item = (&K, &V)> {
        let page = match from {
            Bound::Unbounded => 0,
            Bound::Included(key) | Bound::Excluded(key) => self.page(key),
        };
        let before = move |key: &K| match from {
            Bound::Unbounded => false,
            Bound::Included(from) => key < from,
            Bound::Excluded(from) => key <= from,
        };
        let pages = self.pages.get(page..).unwrap_or_default();
        pages.iter().flat_map(|page| page.iter().map(|(k, v)| (k, v))).skip_while(move |(key, _)| before(key))
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn it_is_a_sorted_map(steps in proptest::collection::vec((any::<bool>(), 0u16..400), 0..800)) {
            let (mut map, mut model) = (PagedMap::default(), BTreeMap::new());
            let mut old = (map.clone(), model.clone());
            for (index, (insert, key)) in steps.into_iter().enumerate() {
                if insert {
                    prop_assert_eq!(map.insert(key, index), model.insert(key, index));
                } else {
                    prop_assert_eq!(map.remove(&key), model.remove(&key));
                }
                if index == 300 {
                    old = (map.clone(), model.clone());
                }
            }
            for (map, model) in [(&map, &model), (&old.0, &old.1)] {
                prop_assert_eq!(map.len(), model.len());
                prop_assert!(map.iter().eq(model.iter()));
                prop_assert!(map.range_from(Bound::Excluded(&200)).eq(model.range(201..)));
                prop_assert!(map.range_from(Bound::Included(&200)).eq(model.range(200..)));
            }
        }
    }
}
