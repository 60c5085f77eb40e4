"""What bad days do: killed jobs, damaged files, full disks, nonsense as input. Short here; long with E2RANK_SOAK=1."""
