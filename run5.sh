cd /work/m5 && PYTHONPATH=/work/m5 /work/venv/bin/python -m pytest -q -x --no-header "$@"
