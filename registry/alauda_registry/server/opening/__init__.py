"""From the settings to what they name: checked and opened, or the reason not to start."""
