//! `/dev/ublkbN`, by libublk.
