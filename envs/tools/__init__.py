"""Search tools behind one interface (`base.SearchTool`)."""
