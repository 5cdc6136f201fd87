//! The points mall: goods for coins and points.
