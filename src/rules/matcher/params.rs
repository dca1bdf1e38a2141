//! The values of path parameters.

/// The values of a path's parameters, in the order of the pattern.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Params<'a> {
    values: [Option<&'a str>; MAX_PARAMS],
}

/// The most parameters in one path.
pub const MAX_PARAMS: usize = 8;

impl<'a> Params<'a> {
    /// The value of the `index`th parameter, as in the normal form of the path.
    pub fn get(&self, index: usize) -> Option<&'a str> {
        self.values.get(index).copied().flatten()
    }

    pub(super) fn set(&mut self, index: usize, value: Option<&'a str>) {
        if let Some(place) = self.values.get_mut(index) {
            *place = value;
        }
    }
}
