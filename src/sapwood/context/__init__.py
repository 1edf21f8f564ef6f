"""What is prepended as text, in the order it is made: template, select, order, facts, prompter."""
