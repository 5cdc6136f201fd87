//! Tables and properties of the draw.
