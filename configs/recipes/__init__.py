"""How papers train their networks: functions that set the fields of a training's config."""
