"""N-gram counts: what a text's last few characters alone say of the next one."""
