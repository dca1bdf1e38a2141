//! Everything that knows how YAML is written: the tree of a text, where its nodes are in the text,
//! and what is wrong with a text that is not YAML.
//!
//! The library gives values without positions, but every error that it reports has one; [`locate`]
//! makes use of that. A parser that keeps positions would spare it (`saphyr` does, and would save
//! about 300 lines), at the price of writing merge keys ourselves and of accepting tabs as
//! indentation. Until there is a better one, the code that it would replace stays in this folder.

mod locate;
mod parse;
mod path;
mod spelling;
mod syntax;
mod value;

pub(super) use self::{
    locate::{line, node, shown, token_width},
    parse::{ParseError, parse},
    path::FieldPath,
    spelling::unmarked,
    syntax::Malformed,
    value::describe,
};
