"""What is handed out: the wheel, its bill of materials, what is known against it."""
