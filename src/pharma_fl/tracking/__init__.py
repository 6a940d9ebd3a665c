"""What people look at: MLflow runs, plots and the report. Nothing else imports mlflow."""
