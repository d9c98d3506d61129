"""What a training minimises: InfoNCE, what a teacher adds to it, how alike two languages rank."""
