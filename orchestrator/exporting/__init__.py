"""What `telemetry` counted, in the forms that others read: OpenTelemetry's data, Prometheus text, OTLP."""
