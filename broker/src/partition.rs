//! A leader's state of one partition: offsets, high watermark, producers, who waits for what.
