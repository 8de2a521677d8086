-- Run once, when the cluster is made. Optuna and Dagster each need a database of their own.
CREATE DATABASE dagster;
CREATE DATABASE optuna;
